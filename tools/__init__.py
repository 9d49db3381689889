"""From a folder of fundus photographs to a checked cache: the `tools` command.

cli audit check datasets sheet   the commands; only cli prints
preprocess_options               the options of `tools preprocess`
sources/         the files of users: layouts, tables of grades, matching
preprocessing/   from a listing to a cache, by this machine's processes or a Dask cluster
phantoms/        synthetic eyes, for demos and tests
benchmark/       how fast this machine decodes, loads and trains
"""
