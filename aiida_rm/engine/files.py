"""Names of every file that passes between AiiDA and the engine, in one place.

A job's folder holds the inputs, the engine adds the outputs. Both halves import these names;
nothing else may spell them.
"""

from __future__ import annotations

from typing import Final

# Inputs
SETTINGS: Final = "settings.json"
INPUT_FRAMES: Final = "input_frames"
REFERENCE_FRAMES: Final = "reference_frames"
KNOWN_FRAMES: Final = "known_frames"
NULL_FRAMES: Final = "null_frames"
INPUT_POTENTIAL: Final = "input_potential.safetensors"
INPUT_STATE: Final = "input_state.safetensors"
#: A folder with any number of potentials, ``*.safetensors``.
INPUT_COMMITTEE: Final = "input_committee"

# Outputs
RESULTS: Final = "results.json"
METRICS: Final = "metrics.jsonl"
OUTPUT_FRAMES: Final = "output_frames"
#: A folder of folders of frames: what a generation has finished so far; gone at its end.
FINISHED_FRAMES: Final = "finished_frames"
OUTPUT_POTENTIAL: Final = "potential.safetensors"
OUTPUT_STATE: Final = "training_state.safetensors"
#: The one before it, should the last one be damaged.
PREVIOUS_STATE: Final = "previous_training_state.safetensors"

# What the program prints; kept apart from the scheduler's own streams.
STDOUT: Final = "aiida_rm.out"
STDERR: Final = "aiida_rm.err"

#: Version of settings.json and results.json.
SCHEMA_VERSION: Final = 1

TASKS: Final = ("perturb", "train", "generate", "score", "relax", "doctor")
