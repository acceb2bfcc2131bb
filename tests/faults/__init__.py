"""What mxtrt does when something goes wrong around it, fault by fault."""
