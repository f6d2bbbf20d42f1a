// Answers rows by a bundle with transformers.js: a request in JSON on stdin, its answers in JSON on stdout.
//
//   node transformers_js.mjs CLIENTS BUNDLE < request.json
//
// CLIENTS is the folder in which @huggingface/transformers is installed. A request is one of
//   {"pipeline": TASK, "rows": [[ARGUMENT, ...], ...], "options": {...}, "load": {...}}
//   {"generate": "seq2seq" | "causal", "rows": [[TOKEN, ...], ...], "options": {...}, "load": {...}}
// `load` goes to from_pretrained (dtype), `options` to each call.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const [clients, bundle] = process.argv.slice(2).map((folder) => path.resolve(folder));
const { AutoModelForCausalLM, AutoModelForSeq2SeqLM, Tensor, env, pipeline } = createRequire(`${clients}/`)(
  "@huggingface/transformers",
);

env.allowRemoteModels = false;
env.useFSCache = false;
env.localModelPath = path.dirname(bundle);
const name = path.basename(bundle);

const MODELS = { seq2seq: AutoModelForSeq2SeqLM, causal: AutoModelForCausalLM };

function tensor(rows) {
  return new Tensor("int64", BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, rows[0].length]);
}

async function answers({ pipeline: task, rows, options = {}, load = {} }) {
  const answer = await pipeline(task, name, load);
  const found = [];
  for (const row of rows) found.push(await answer(...row, options));
  return found;
}

async function tokens({ generate: kind, rows, options = {}, load = {} }) {
  const model = await MODELS[kind].from_pretrained(name, load);
  const found = [];
  for (const row of rows) {
    const inputs = { input_ids: tensor([row]), attention_mask: tensor([row.map(() => 1)]) };
    const ids = (await model.generate({ ...inputs, ...options })).tolist()[0].map(Number);
    found.push(kind === "causal" ? ids.slice(row.length) : ids.slice(1));
  }
  return found;
}

const request = JSON.parse(readFileSync(0, "utf-8"));
process.stdout.write(`${JSON.stringify(await ("generate" in request ? tokens : answers)(request))}\n`);
