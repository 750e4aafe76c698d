"""AiiDA data nodes: sets of structures, potentials, and training states."""
