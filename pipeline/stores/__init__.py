"""Where snapshots live: a folder of a file system, or a prefix of an S3 bucket. `store.of(location)` is the door.

    remote     a place in a bucket, for readers: what they use of pathlib.Path, by pyarrow alone
    store      what a writer asks of a store, whichever it is
    local      answered by renames and hard links      files      the system calls under it
    s3         answered by puts and copies             objects    the requests under it, patiently repeated

The calls and requests that change something are few and in two small classes, so that a test can stop at each of them.
"""
