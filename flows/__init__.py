"""Prefect, and nothing but Prefect, around `pipeline`: three flows over eight tasks.

    full      agree -> ingest -> train -> register -> encode -> reduce -> report
    train     agree -> ingest -> train -> register
    encode    agree -> ingest -> (the champion) -> encode -> reduce -> report

Tasks pass records, never tables. Retries and schedules are Prefect's; exactly-once is not left to it.
"""
