"""Jobs that run the engine, and calcfunctions on sets of structures."""
