"""The parties around the firmware: AMD, platform owner, hypervisor and guest owner."""
