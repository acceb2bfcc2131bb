"""What several tests share: networks, processes, faults, converters run on their own."""
