"""Every diagnostic code: its title and the text that `recipe explain` prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """What a code means."""

    title: str
    text: str


CODES: dict[str, Code] = {
    "R001": Code(
        "not valid JSON",
        "The text stops being JSON at the place shown. Usual causes: a comma too many before a closing bracket, a "
        "comma missing between two members, single quotes, a comment, or a word without quotes. JSON has no comments "
        'and no trailing commas; use the "description" key for remarks.',
    ),
    "R002": Code(
        "a key is written twice",
        "Readers of JSON disagree about which of two equal keys counts, so a recipe may have only one.",
    ),
    "R003": Code(
        "not a finite number",
        "NaN, Infinity and numbers too large for a double are not JSON. Whole numbers go up to 2^53.",
    ),
    "R006": Code(
        "a file can't be read",
        "The recipe, or a recipe that it extends, is not there or may not be read. Paths are relative to the file "
        "that writes them.",
    ),
    "R007": Code(
        "recipes extend each other in a circle",
        "A recipe that extends another takes its values as a base. In a circle there is no base to start from.",
    ),
    "R008": Code(
        "an override can't be applied",
        "`--set` takes a JSON Pointer, an equals sign and a JSON value: --set /training/epochs=1. A value that is not "
        'JSON is taken as a string: --set /method=head. Items of lists have numbers, "-" appends, also to a default. '
        "An object merges into the one that is there, as one that extends it would, so an empty one would do nothing. "
        "`extends` can't be set: the recipes that it names are read before.",
    ),
    "R101": Code(
        "unknown key",
        "A recipe is a closed world: a key that the language does not have is an error, because a misspelt key would "
        "silently train with the default. The hint names the nearest key that exists at that place.",
    ),
    "R102": Code("wrong type", "The value has another JSON type than the language expects at this place."),
    "R103": Code("not one of the known words", "The value must be one of a few words; the hint names the nearest one."),
    "R104": Code("out of range", "The value has the right type but is outside of its range or pattern."),
    "R105": Code("a key is missing", "The language needs this key. It is looked for after `extends` has been merged."),
    "R201": Code(
        "a metric or loss that is not there",
        "The task does not have the metric or the loss, or early stopping asks for a metric that the recipe does not "
        "measure.",
    ),
    "R202": Code(
        "nothing reads this key",
        "The key exists in the language, but with the other values of this recipe nothing would read it: the rank of "
        "LoRA under full tuning, or the gate's settings without an export. It would look as if it had an effect. What "
        "stands beside stages counts as read where one of them reads it.",
    ),
    "R203": Code(
        "listed twice",
        "Two metrics have the same name in the report, two exports would write the same, two targets are the same "
        "column, a kind of parameters is left out of the decay twice, or two stages have the same name. Remove one, or "
        "give it another name. Names of stages, and of tasks that share a model, are those of folders: they differ in "
        "more than case.",
    ),
    "R204": Code(
        "freezing leaves nothing to tune",
        "The method `freeze` keeps the first layers as they are. With as many layers as the model has, or more, only "
        "the head would be trained; say so with the method `head`. Nor can more than all layers be the last ones. A "
        "stage is one layer (ResNet, Swin), and so are layers that share their weights (ALBERT).",
    ),
    "R205": Code(
        "a target module that does not exist",
        "Target modules are named as the model's files name them: by a whole name, by its end after a dot, or by a "
        "pattern in which * stands for any characters between two dots. LoRA's are linear layers, an adapter's are "
        "projections inside a layer, those of layer-norm are norms; modules_to_save may be any. The hint lists the "
        "names that the model has.",
    ),
    "R230": Code(
        "an option that does not fit the ranks of updates",
        "Orthogonal first values give one half of an orthonormal matrix to each of the two factors of an update, so "
        "that their product is zero: the rank has to be even. `adalora` takes ranks away, from initial_rank to "
        "target_rank, in the steps that initial_share and final_share leave.",
    ),
    "R232": Code(
        "an adapter that a training can't begin with",
        "method.from names a folder with adapter_config.json and adapter_model.safetensors, as PEFT saves them. Its "
        "type, rank, scale, target modules and modules_to_save must be those of the recipe's method, and its weights "
        "must have the shapes that the model asks for: they are the first values in place of drawn ones. The message "
        "names what differs.",
    ),
    "R231": Code(
        "a module that would be trained twice",
        "modules_to_save are copied and trained in full. A module in them can't have a target module inside of it, "
        "beside which something else is trained.",
    ),
    "R206": Code(
        "a split needs one source",
        "The rows of a split are a file (path), a named split of the hub dataset in /dataset/id (name), or a share of "
        "the train rows (fraction): one of them. Train itself has a path or a name, and the shares leave it rows.",
    ),
    "R207": Code(
        "not a number for each target",
        "A task with several targets takes a single number for all of them, or a list with one for each, in the order "
        "in which /task/targets names them.",
    ),
    "R208": Code(
        "labels that don't fit",
        "Labels are declared once each, at least two of them, and class weights and positive classes speak of labels "
        "that exist.",
    ),
    "R209": Code("a micro-batch larger than the batch", "Micro-batches are the portions in which a batch is computed."),
    "R210": Code("no rows tell which checkpoint is best", "Keeping the best checkpoint needs validation rows."),
    "R211": Code(
        "no held-out rows for the gate",
        "An export is proven on rows that were not trained on: the test rows, or else the validation rows.",
    ),
    "R215": Code(
        "the model has nowhere to put the mean",
        "Targets are learnt without their mean, which is put on the bias of the model's head afterwards. The heads of "
        "decoders have no bias.",
    ),
    "R216": Code(
        "a column that is to be two things",
        "/dataset/columns names one column for two roles, or names a column whose own name is another role's default: "
        "what the model reads would be what it is to answer. A target in /task/targets is a column too, and can't have "
        "the name under which the task keeps a text.",
    ),
    "R212": Code("the warm-up outlasts the training", "The learning rate would never reach its value."),
    "R213": Code(
        "the method does not run on this runtime",
        "Some methods need what only one runtime has: `qlora` holds weights as MLX quantizes them, and `adalora` takes "
        "ranks with PyTorch. The runtime is the "
        'recipe\'s "runtime", or --runtime on the command line; "auto" is mlx on Apple silicon, else pytorch. MLX also '
        "computes on Linux, on CPU or CUDA.",
    ),
    "R214": Code(
        "a group size that does not fit the layers",
        "A quantized layer holds one scale and one offset for each group of its inputs, so that group_size must divide "
        "their number: 32, 64 or 128. A layer that none of the three divides stays as it is, and the plan says so. "
        "An export in few bits, too, has to quantize something.",
    ),
    "R217": Code(
        "a limit of memory that nothing keeps",
        "--target cpu:8GiB says how much memory training may take. MLX keeps to it everywhere and PyTorch on CUDA and "
        "MPS: micro-batches are halved until a step fits. PyTorch's memory on the CPU is the system's, which has no "
        "such limit: there, choose /training/micro_batch_size and /training/gradient_checkpointing.",
    ),
    "R407": Code(
        "no tokenizer.json",
        "Rows are read with the model's own fast tokenizer, the file tokenizer.json, in training and in the bundle "
        "alike. Save the model with a fast tokenizer to get it.",
    ),
    "R408": Code(
        "longer than the model's positions",
        "The model has learnt a fixed number of positions; longer rows would fail or be nonsense. Solved rows before a "
        "prompt (/generation/few_shot) take their part of them.",
    ),
    "E401": Code("the system refused", "A file could not be written or read: disk full, no permission, or gone."),
    "E402": Code("a package is missing", "The command needs an extra of recipec; the hint installs it."),
    "E404": Code("another process writes here", "Only one process may write a run, a step or an export at a time."),
    "E412": Code(
        "an image can't be read",
        "The file is not there, is no image, or ends before the image does. `recipe check` looks at every image that "
        "the rows of a recipe name.",
    ),
    "E411": Code(
        "a row has nothing to learn",
        "A row of a language task bears loss on none of its tokens: its answer is empty, or was cut off with the "
        "tokens over max_length. Training on it would waste time, and measuring on it would say nothing.",
    ),
    "E499": Code("an unforeseen error", "A fault of recipec. `recipe --debug` shows the traceback; please report it."),
    "E130": Code(
        "interrupted",
        "The run was asked to stop. The training is saved; the same command goes on where it stopped.",
    ),
    "E403": Code(
        "training diverged",
        "The loss or the gradient is not a finite number. The last good checkpoint is kept and never "
        "overwritten by a bad one. Lower the learning rate, warm up for longer, or clip the gradient.",
    ),
    "E405": Code(
        "out of memory",
        "The device has no room even for one row at a time. Micro-batches were halved down to that, which "
        "does not change the result. Let layers be computed again (/training/gradient_checkpointing), shorten the "
        "rows, choose a smaller model, or a method that trains less.",
    ),
    "E406": Code(
        "a model can't be trained as planned",
        "The weights can't be loaded, are not all there, or don't have the layers that the method names.",
    ),
    "E408": Code(
        "the model does not trace, or an operation has no lowering",
        "MLX runs a graph that torch.export traces from the model. Some models can't be traced for every size, and "
        "some use an operation that has no lowering to MLX: the message names it and the module that uses it. Nothing "
        "was trained. `--runtime pytorch` runs the same plan.",
    ),
    "E407": Code(
        "no such device",
        "The plan was placed on a device that this installation of the framework can't use. `recipe "
        "doctor` lists the devices.",
    ),
    "E409": Code(
        "the method does not run on this runtime",
        "A plan is the same for every runtime, but some methods need what only one of them has: `qlora` runs on MLX. "
        "So do optimizers with running means in 8 bits or paged, which run on PyTorch. "
        "Nothing was loaded. `--runtime` names the runtime of a plan.",
    ),
    "E410": Code(
        "the model has no layers to compute again",
        "/training/gradient_checkpointing computes each layer again for its gradients instead of keeping what it "
        "computed. On PyTorch the model's class in transformers must support that, on MLX the model must have numbered "
        "layers. Nothing was trained. The result is the same without it.",
    ),
    "E501": Code(
        "the export failed",
        "The exporter can't write the model as a graph that runs at every batch size and length. The "
        "tuned model is kept.",
    ),
    "E505": Code(
        "onnxruntime-genai's builder failed",
        "The builder knows the architecture and yet can't write this model, because of something in its configuration "
        'or its tokenizer. The tuned model is kept; {"format": "onnx", "exporter": "transformers"} writes it another '
        "way.",
    ),
    "E502": Code(
        "a saved model is not whole",
        "The folder of a saved model has no weights, or lacks some, or a configuration in it can't be read. A missing "
        "head would be filled with random numbers, so it is refused.",
    ),
    "E503": Code(
        "what was tuned is lost in the export",
        "The export rounds weights so that most of the update goes back to the weights of the base: so it is where an "
        "adapter is merged into weights that lie on the grid of their few bits, or where a training changed little. "
        "Nothing was written. The tuned model is kept.",
    ),
    "E507": Code(
        "the conversion to Core ML failed",
        "coremltools, or the trace that it reads, did not take the model; or what was written can't be read back. "
        "The tuned model is kept.",
    ),
    "E508": Code(
        "Core ML can't be used here",
        "Core ML is a part of macOS. A Core ML package runs there alone, and so does the execution provider of "
        "onnxruntime, in those of its packages that were built with it.",
    ),
    "E509": Code(
        "a graph that can't be rounded",
        "onnxruntime's quantizers did not take the graph, or found nothing in it that they hold in so few bits. The "
        "graph in float32 is kept; another precision may do.",
    ),
    "E601": Code(
        "not a whole bundle",
        "The folder has no manifest, or a file of the bundle is missing or can't be read.",
    ),
    "E602": Code(
        "the export gate failed",
        "The exported model does not answer as the trained one on the held-out rows. The message names "
        "the first edge and check that broke, `disagreements.jsonl` the rows. It has no bundle; the recipe's other "
        "exports are tried all the same, and `recipe report` shows every gate.",
    ),
    "E603": Code(
        "a bundle is not what was proven",
        "The bundle's files, tokens, outputs, decisions or metrics are not those of the trained model "
        "that it was made from.",
    ),
    "E604": Code(
        "the graph does not run",
        "onnxruntime refuses to load or run the graph, or MLX the function.",
    ),
    "E605": Code(
        "rows that don't fit",
        "There are no rows to verify with, or their labels are not those of the bundle.",
    ),
    "E606": Code(
        "a part of the bundle is missing",
        "A step's output that the bundle is made of is gone. The steps before it are done again by the next run.",
    ),
    "E607": Code(
        "nothing to compare layers of",
        "`recipe verify --bisect` holds an ONNX graph to the model that it was made from, layer by layer. The run has "
        "no such export or its parts are gone, a bundle was given without --source, or the weights of a graph are "
        "rounded, so that every layer of it differs.",
    ),
    "E608": Code(
        "layers that can't be followed",
        "A value inside of the graph or the model can't be looked at: the graph does not run without optimizations, "
        "takes an input that rows don't have, or most of it is inside of a branch, as of decoders that were "
        "merged from two; or the model has virtual tokens.",
    ),
    "E620": Code(
        "the server can't listen",
        "Another program listens at that port, or the address is none of this machine's. `--port 0` takes any port "
        "that is free.",
    ),
    "E621": Code(
        "a request that can't be read",
        "A request to POST /predict is a JSON object with `rows`, a list of objects as they stand in a file of rows, "
        "or with `text`. It has at most --max-request-bytes and --max-rows.",
    ),
    "E622": Code(
        "a row of a request that can't be answered",
        "A column is missing or has another kind of value than the task reads; `row` counts from 0 in the request, "
        "`key` is the column. GET /metadata lists the columns. Images stand in the row as data URIs: a path would "
        "name a file of the server, and none is read. What is tokenized of a row has at most --max-characters.",
    ),
    "E623": Code(
        "the server has too much to do",
        "More requests wait than it holds in memory, there are more connections than --max-connections, or an answer "
        "takes longer than --max-seconds. Ask again later, ask for fewer rows at once, or start another.",
    ),
    "E624": Code(
        "nothing at this address",
        "The server answers GET /health, GET /metadata (also at /) and POST /predict. One that listens to its own "
        "machine alone answers to that machine's names alone, as a web page may give it one of its own; --allow-host "
        "names others.",
    ),
    "R218": Code(
        "an export that the task or the method does not have",
        "For MLX, a model that writes token after token becomes a folder for mlx-lm, which runs it from its weights "
        "alone: layers beside them that are not merged into them have no place there. Every other model becomes a "
        "function, that of an encoder-decoder in float32; several tasks in one model have none. What has no place is "
        "exported to ONNX.",
    ),
    "R243": Code(
        "a model that has no Core ML package",
        "Packages are written of models that answer a row at once: encoders with a head that classifies, tags, "
        "measures or finds answers, and models of images. There is one task in each, and all that was trained has to "
        "be in the weights of the model.",
    ),
    "R245": Code(
        "a precision that the model is not exported in",
        "With int8-static the ranges of what a layer is given are seen beforehand, on train rows that are answered at "
        "once. A model that writes token after token is given its cache too, whose ranges move with the text: of such "
        "models int8 rounds the weights, and the rest stays as it is.",
    ),
    "R219": Code(
        "a stop text that ends every answer",
        "An answer ends where a stop text begins, and the empty text begins everywhere.",
    ),
    "R220": Code(
        "packed rows would see each other",
        "Rows share a sequence where the model's attention takes a mask for pairs of tokens. Windows and slopes over "
        "distances would be lost with such a mask; rows of these models are sequences of their own.",
    ),
    "R221": Code(
        "unfreezing that comes too late",
        "With /training/unfreeze_every, the head is trained first and a layer more after every so many steps. With as "
        "many steps as the whole training, only the head would be trained; say so with the method `head`.",
    ),
    "R222": Code(
        "running means that can't be held like this here",
        "An optimizer's running means in 8 bits (`state`), or in memory that moves between a GPU and its machine "
        "(`paged`), are held by bitsandbytes, with PyTorch: 8 bits on CUDA and the CPU, paged on CUDA. MLX has "
        'neither. The runtime is the recipe\'s "runtime", or --runtime on the command line.',
    ),
    "R233": Code(
        "a reduction that leaves nothing",
        "An adapter has as many units as its projection has outputs, divided by reduction_factor: at least one.",
    ),
    "R234": Code(
        "a model without biases",
        "The method `bitfit` trains biases. Llama, T5 and their like have none; LoRA tunes every model with linear "
        "layers.",
    ),
    "R250": Code(
        "virtual tokens do not fit the model",
        "Prompt tuning, p-tuning and prefix tuning put vectors before the tokens of a text. Models of images have no "
        "tokens; encoder-decoders take vectors before their source alone; and some models take neither.",
    ),
    "R251": Code(
        "virtual tokens leave no room",
        "Virtual tokens take positions of the model, which rows need: those that are left are how long a row may be.",
    ),
    "R301": Code(
        "a data file is missing",
        "There is no such file, it is a folder, or it can't be read. Paths start from the file that "
        "writes them; the hint names the nearest data file in that folder.",
    ),
    "R302": Code(
        "a path leaves the project",
        "A recipe reads files of its project, and extends recipes in it: the nearest folder above the recipe with "
        ".git, else the recipe's own or the working folder. Links are followed. The command line permits another "
        "folder with --allow; a recipe can't.",
    ),
    "R303": Code(
        "unknown data format",
        "The suffix decides how rows are read: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .pq. Images may also "
        "stand in a folder, in folders that are named as their labels.",
    ),
    "R304": Code(
        "a column is missing",
        "The data has no column of the name that is written or defaulted. /dataset/columns goes from the "
        "column that the task reads to its name in the data. For JSON, the first hundred rows name the "
        "columns.",
    ),
    "R305": Code(
        "a row can't be read",
        "Broken JSON, a number of thousands of digits, a CSV line with another number of fields than the header, a "
        "row that is no object or has a key twice, two columns of one name, or text that is not UTF-8. The place is "
        "the line; reading of that file stops there.",
    ),
    "R306": Code(
        "a split is empty",
        "The file has no rows, or fractions and row limits leave none. Other findings about rows wait "
        "until this is repaired.",
    ),
    "R307": Code(
        "a label that only one split has",
        "A label in held-out rows that train lacks can't be learnt: an error. One in train that held-out "
        "rows lack is not measured: a warning.",
    ),
    "R308": Code(
        "too few labels",
        "A classifier needs two labels, and train needs rows of every declared label.",
    ),
    "R309": Code(
        "rows are cut",
        "Rows have more tokens than max_length, counted with the model's tokenizer.json, special tokens "
        "included; the rest is not read. Raise max_length if the model's positions allow it, or accept "
        "it.",
    ),
    "R310": Code(
        "lengths were not checked",
        "The model has no tokenizer.json, so rows over max_length were not looked for.",
    ),
    "R311": Code(
        "texts stand twice",
        "Held-out texts that train has as well, or that an earlier stage or another task of the same model is trained "
        "on; or texts that repeat in train; equal but for case and spaces. Held-out ones raise the metrics without "
        "merit: remove them from one side.",
    ),
    "R312": Code(
        "a label that is not declared",
        "Rows have a label that is not in /task/labels. Whole numbers count into the list from 0.",
    ),
    "R313": Code(
        "a value that is no text, label or number",
        "The text column needs strings of Unicode characters, at most ten million each; the label column needs a "
        "non-empty string, a whole number, or true or false; the target column needs finite numbers. Tokens are a list "
        "of strings and tags a list of as many; spans are objects with start, end and label, inside their text, and "
        "no two share a word. A prompt has tokens where a text is to be written after it. At most five rows "
        "of a column and file are listed; where more than half of a file's rows are like this, /dataset/columns names "
        "the wrong column.",
    ),
    "R316": Code(
        "the answers are all equal",
        "Every train row has the same target, so there is nothing to learn. Look at the column that "
        "/dataset/columns/target names, or the one in /task/targets.",
    ),
    "R317": Code(
        "nearly as many labels as rows",
        "More than half of the rows have a label of their own, so there is nothing to learn about them: "
        "/dataset/columns/label names a column of texts, ids or numbers. Numbers are for a task that answers numbers. "
        "Labels that are declared in /task/labels are taken as they are.",
    ),
    "R318": Code(
        "labels are very unequal",
        "One label has more than ten times the train rows of another: a model that never gives the rare one is right "
        "nearly always. `balance` in /training makes up for it: weights in the loss, rows that stand several times, or "
        "fewer rows of the common ones. So do class_weights, and the focal loss. It is a warning: rare labels may be "
        "meant to be rare.",
    ),
    "R315": Code(
        "a split that the hub dataset does not have",
        "No file name has the split's word, several configurations have it, a numbered part is missing, or its rows "
        "are images, which are read from this machine alone. Name the file by path instead.",
    ),
    "R240": Code(
        "a stage can't start from the model before it",
        "A stage starts from the whole model that the one before it left, its head included. A method whose parameters "
        "are not merged leaves none, so it can only be the last stage's; one that draws new weights starts from none, "
        "so it can only be the first's. After it, a method that is planned by the shapes of weights needs some of the "
        "same shapes in the model's folder. A stage that classifies or measures leaves the head of its task, so "
        "language models are tuned before it and not after.",
    ),
    "R242": Code(
        "an adapter that can't stay beside its graph",
        'With "adapter": "separate" the base is exported, and the updates are a file beside it that onnxruntime and '
        "onnxruntime-genai load. The builder of onnxruntime-genai writes both, in float32, of plain low-rank updates "
        "in the layers: the method `lora` without modules_to_save. Everything else is merged before it is exported.",
    ),
    "R241": Code(
        "an exporter that can't write the model",
        "The builder of onnxruntime-genai writes language models of the architectures that it is known to write right, "
        "with heads whose size its attention takes, in the one operator set of its release. It has no place for "
        "virtual tokens, nor for other additions that are not merged into the weights. `exporter` left out chooses by "
        "itself.",
    ),
    "R401": Code(
        "access is refused",
        "The model or dataset is gated or private. Ask for access on its page, then log in with `hf auth "
        "login` or set HF_TOKEN.",
    ),
    "R402": Code(
        "not found",
        "There is no such folder, hub id, revision or file; or the weights are missing.",
    ),
    "R403": Code(
        "can't be looked up",
        "No network, the hub does not answer, or the run is offline, and neither the mirror "
        "(RECIPE_MIRROR) nor the local cache has all of it.",
    ),
    "R404": Code(
        "only pickled weights",
        "Pickles can run code when they load, so weights come from safetensors only, and no recipe can "
        "allow it. Convert them once, in a place you trust.",
    ),
    "R405": Code(
        "needs code of its own",
        "config.json names code to download (auto_map), and the architecture is none that transformers "
        "has. Such code is never run.",
    ),
    "R406": Code(
        "a model file is broken",
        "config.json, the weights' header or index, or tokenizer.json can't be read, or config.json names a padding "
        "token that the model does not have, or describes another model than the weights: more layers, other sizes.",
    ),
    "E610": Code(
        "a graph with other inputs or outputs",
        "Inputs of a graph are told by name: input_ids, attention_mask, token_type_ids, pixel_values, "
        "decoder_input_ids; positions and an empty cache are made. The output is called logits (start_logits and "
        "end_logits where a part of a text is marked), or there is one alone, or --output names it.",
    ),
    "E611": Code(
        "which graph is meant",
        "A folder has one ONNX file, in it or in onnx/; of an encoder-decoder an encoder_model and a decoder_model. "
        "Where there are several, --bundle names the file.",
    ),
    "R252": Code(
        "a model without a head for the task",
        "`recipe export` and `recipe verify --source` take a model as it is: the head that its config.json and weights "
        "have decides what it answers. An encoder without a head answers nothing before it is tuned. A task that is "
        "named with --task has to be one that the head answers, and the names in it as many as its outputs.",
    ),
    "R253": Code(
        "nothing says which task a model is for",
        "config.json lists the architecture that a model was saved from, whose name ends in its head: "
        "BertForSequenceClassification. Without it, --task says what the model is to do.",
    ),
    "R254": Code(
        "more calibration rows than train rows",
        "`calibration_rows` says on how many train rows int8-static sees the ranges of what it rounds. Where there are "
        "fewer it is a warning, and all of them are taken. A hundred rows are usually enough.",
    ),
    "R260": Code(
        "several tasks that can't be trained as one",
        "Tasks that share a model are at least two, each under a name that a folder and an output of a graph can have. "
        "Either all have validation rows or none, as the sum of their losses chooses between checkpoints. The method "
        "trains what is in the model or in its heads: full, head, freeze, lora.",
    ),
    "R410": Code(
        "an architecture that the task can't use",
        "Text classification takes encoders. A decoder will do when its config.json names a padding token "
        "(pad_token_id), by which it finds the end of a row. Language models are decoders, and what reads one text and "
        "writes another is an encoder-decoder. Encoders learn hidden tokens, not the next one; beside "
        "frozen weights they need a head for these that has learnt before.",
    ),
    "R409": Code(
        "a file has changed since the plan was made",
        "The sha256 of a file is not the plan's. Compile the recipe again, or put the old file back.",
    ),
    "R411": Code(
        "the task does not fit the model's files",
        "The task takes something from the files beside the model's tokenizer: a chat template, the token that ends a "
        "text, the one that stands for hidden ones. It is not there, can't be read, or is a template that runs for too "
        "long.",
    ),
}
