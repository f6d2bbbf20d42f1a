"""Metrics as pure functions, a module for each kind of answer; reports list them by `compiler.metrics.name_of`.

Labels: `decisions.score_decisions`, `ranking.score_ranking`. Numbers: `values.score_values`. Next tokens:
`tokens.score_tokens`. Entities: `entities.score_entities`. Texts: `texts.score_texts`.
"""
