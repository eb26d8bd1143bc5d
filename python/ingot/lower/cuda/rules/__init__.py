"""Schedules for GPUs, a file each."""
