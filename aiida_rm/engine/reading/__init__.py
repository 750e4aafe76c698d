"""How files become structures, one at a time; :mod:`aiida_rm.engine.readers` is the door."""
