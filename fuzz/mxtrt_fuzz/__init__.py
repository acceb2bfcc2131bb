"""mxtrt's property-based fuzzer: random graphs against plain MXNet and a float64 reference."""
