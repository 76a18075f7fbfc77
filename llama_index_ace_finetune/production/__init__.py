"""What happens after the swap: the log of served queries, feedback on their results, and tracing.

It knows records of queries, results and feedback; it must not know training, mining or printing.
"""
