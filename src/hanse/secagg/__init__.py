"""Secure sums: the coordinator learns the sum of many clients' vectors, and of no fewer."""
