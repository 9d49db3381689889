"""From a folder of fundus photographs to a checked cache: the `tools` command.

cli preprocess_options audit check datasets sheet   the commands
sources/         what people have on disk: layouts, tables of grades, matching
preprocessing/   from a listing to a cache, by this machine's processes or a Dask cluster
phantoms/        drawn eyes, for demos and tests
benchmark/       how fast this machine decodes, loads and trains
"""
