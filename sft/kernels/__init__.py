"""Faster layers that replace stock ones in a loaded model; each is measured against the stock one."""
