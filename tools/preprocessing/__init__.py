"""From a listing of photographs to a cache, by processes of this machine or a Dask cluster."""
