"""A command line of each command that opens a model, for the tests that run them all. A new command gets a row here."""

from __future__ import annotations

# name of a case, which begins with its command -> its words; those in capitals stand for a path
COMMAND_LINES = {
    "match": "match QUERY CROPS --model MODEL",
    "match with an index": "match QUERY OUT.gallery --model MODEL",  # which "index" has made
    "match of a folder": "match CROPS CROPS --model MODEL --top 1",
    "index": "index CROPS -o OUT.gallery --model MODEL",
    "embed": "embed CROPS -o OUT.npy --model MODEL",
    "embed as a table": "embed QUERY -o OUT.csv --model MODEL",
    "adapt": "adapt MODEL --images DATA -o OUT.onnx",
    "eval": "eval MODEL --data DATA",
    "calibrate": "calibrate MODEL --data DATA --far 0.5",
    "verify": "verify MODEL MODEL --data DATA",
    "export": "export CHECKPOINT --data DATA --out OUT",
    "doctor": "doctor MODEL --images CROPS",
    "bench": "bench MODEL --images CROPS --device cpu --seconds 0 --batches 1",
    "demo": "demo --source CROPS --gallery OUT.gallery --model MODEL --headless --max-frames 2",
}
# Commands that open no model of ours, and `serve`, which does not end; tests of their own run them.
WITHOUT_A_MODEL = {"people", "forget", "train", "ablate", "import", "wrap", "models", "synthetic", "env", "serve"}


def cases(*left_out: str) -> list[str]:
    """The names of all cases but those that are `left_out`."""
    assert set(left_out) <= set(COMMAND_LINES)
    return [name for name in COMMAND_LINES if name not in left_out]


def command_line(name: str, **places: object) -> list[str]:
    """The words of a case; `places` are the paths for the words in capitals. OUT is the stem of all outputs."""
    words = []
    for word in COMMAND_LINES[name].split():
        stem, dot, suffix = word.partition(".")
        words.append(f"{places[stem]}{dot}{suffix}" if stem.isupper() else word)
    return words
