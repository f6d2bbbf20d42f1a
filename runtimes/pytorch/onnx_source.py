from __future__ import annotations
import onnx_ir
CACHED = "use_cache_branch"
def compute_source_once(graph: onnx_ir.Model) -> None:
    import os
    onnx_ir.save(graph, os.environ["DUMP"])
