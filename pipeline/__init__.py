"""Rows in, latent codes out: the steps of latentpipe, and the map to read them by.

    ingest     any table            -> a typed, immutable Parquet snapshot
    train      a snapshot           -> a checkpoint with its evaluation       (Ray Train)
    register   a checkpoint         -> a model version, maybe the champion    (MLflow)
    encode     a version, a snapshot-> latent codes in Parquet                (threads, or Ray Data)
    reduce     latent codes         -> 2-D coordinates in Parquet
    report     all of it            -> one HTML page
    tune       a snapshot           -> better settings, as a run's TOML        (Ray Tune)
    compare    a table              -> the family of autoencoders, PCA and exact rivals, measured alike

Each step is a module with one function of its name; it takes the run's config and the records of earlier steps and
returns a record. Before the first: `agree` (what is declared, or found by a `survey`, becomes the `contract`) and
`check` (each file alone). Beneath them, rooms of several modules: `sources` (where rows come from), `schema` (what a
row must be), `intake` (how files become the parts of a snapshot), `features` (fitted preprocessing), `training` (one
training: rows, loop, checkpoints), `encoding` (work units of an encode, a worker, the account). And single ones:
`codec` (where rows meet the model), `fleet` and `ranks` (a training by Ray Train), `trials` (many by Ray Tune),
`lock` (one driver at a time), `spread` (many units in threads or actors), `handshake` (all of one code), `latents`
(the output contract), `storage` (all of a snapshot, or none of it), `parts` (one file of it), `snapshots` (what a
snapshot is), `linear` and `probes` (PCA, and what codes are good for), `tracking` (MLflow), `cluster` (Ray),
`runfile` (a run's TOML), `config`, `columns`, `records`, `progress`, `disk`, `errors`.

This module imports nothing, so that a reader of latents pays for pyarrow and no more.
"""
