"""The processes: they join the rooms and open the doors."""
