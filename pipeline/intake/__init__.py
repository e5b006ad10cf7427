"""How files become the parts of a snapshot: counted, read by units, judged, profiled, and entered in a ledger."""
