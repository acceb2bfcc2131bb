"""What a person is told: ``report`` of one bind, ``counters`` of the process."""
