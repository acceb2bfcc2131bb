"""Files: symbols with engines, parameters, and the models of others."""
