"""Is a snapshot what it says it is, and where does a row of it come from? Reads everything, changes nothing."""
