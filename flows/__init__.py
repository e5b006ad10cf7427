"""Prefect, and nothing but Prefect, around `pipeline`: three flows over seven tasks.

    full      ingest -> train -> register -> encode -> reduce -> report
    train     ingest -> train -> register
    encode    ingest -> (the champion) -> encode -> reduce -> report

Tasks pass records, never tables. Retries and schedules are Prefect's; exactly-once is not left to it.
"""
