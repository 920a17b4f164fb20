"""Study: a question in, stored evidence out.

study_file   the question of a study as YAML, validated
entries      data, models, training, places, points and goals as plain data
messages     messages on what a validation refused
checks       memories and levels checked before the first trial
named_files  content of the files that a study names
factories    results of users' functions
sources      content behind the names of a study
networks     networks loaded, placed, and trained through a memory
plain        base of the parts of a study file
memories     memories as plain data: their union, and memories of one's own
word_memories   SRAM, DRAM and embedded DRAM
analog_memories crossbars and phase-change memory
faults       faults of memories of words as plain data
short_forms  settings as they stand on a command line
trials       pieces of work with a digest
compute      the computation of one trial
tokens       joules per token and generated text of language models
energy_curve simulations around the fall of a metric
store        the folder of a study
engine       sources of executors
run          trials on any executor, kept as they are done
dask_engine  workers of a Dask scheduler
malloc       memory allocator settings of processes that compute
loggers      finished trials to TensorBoard, MLflow or Weights & Biases
record       a finished trial as plain data
study        a study file and its folder
least_energy the least energy within a drop, with an interval
placed       placed tensors as plain data
environment  versions and machine, for the record
"""

import lazy_loader

# Imported when first used: study files are checked without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
