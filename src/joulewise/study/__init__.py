"""Study: a question in, stored evidence out.

curve        accuracy against energy for one network, points placed where they matter
iso_accuracy the lowest energy within a given accuracy drop, with an interval
forecasting  predictions along a curve, and how well they agree with simulation
crossing     where a loss crosses a limit on the way from reliable points down
comparison   several networks on their memories, accuracy against energy
allocations  plans of one network for one goal, beside the best common point
fronts       accuracy against energy over the whole range, several networks and memories
recipes      ways to train in short words, and networks trained by them
arms         ways to train, each with several seeds, by the energy that their networks need
placed       placed tensors as plain data
records      simulations and predictions as plain data
allocation_records allocations, fronts and co-designs as plain data
study_file   the question of a study as YAML, validated
memories     memories as plain data
short_forms  settings as they stand on a command line
trials       pieces of work with a digest
compute      the computation of one trial
store        the folder of a study
engine       trials on any executor
dask_engine  workers of a Dask scheduler
least_energy the least energy within a drop, with an interval
record       a finished trial as plain data
study        a study file and its folder
energy_curve simulations around the fall of a metric
spec         choices as plain data, and the networks and memories that they build
environment  versions and machine, for the record
"""

import lazy_loader

# Imported when first used: study files are checked without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
