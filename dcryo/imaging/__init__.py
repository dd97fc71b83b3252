"""What the microscope does: optics, CTF, noise, basis functions, phantoms.  Pure array functions."""
