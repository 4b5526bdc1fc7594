"""Applies a plan to a network, and checks that the pruned network equals the masked one."""
