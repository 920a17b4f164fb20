"""A small study, and the figures of its folder without durations and machines."""

import json

SMALL = {
    "data": {"source": "digits", "images": 60},
    "models": ["mlp"],
    "training": [{"method": "sgd", "epochs": 1, "lr": 0.1}],
    "memories": ["sram", "sram:bits=6"],
    "points": ["eta=0.6", "eta=0.5"],
    "goals": ["error=0.01"],
    "granularities": ["network"],
    "chips": 20,
    "samples": 60,
}


def figures(folder):
    """Results of all trials, and the digests of trained weights."""
    found = {}
    for path in (folder / "trials").iterdir():
        content = json.loads(path.read_text())["content"]
        training = content["result"].get("training", {})
        for timed in (training, *training.get("history", ())):
            timed.pop("seconds", None)
        found[path.stem] = content["result"], content.get("weights")
    return found
