"""Applying a plan to a network, and the check that the pruned network equals the masked one."""
