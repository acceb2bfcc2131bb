"""Files: symbols with engines (``symbol_file``), parameters (``params_file``), models (``models``)."""
