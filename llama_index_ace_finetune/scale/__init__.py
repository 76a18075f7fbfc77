"""Work on more memories than one process should hold: shards of them, in a loop or on a Ray cluster.

It knows shard files, encoders, rankings and the workers that it starts; no runs, stores, retrievers or training.
"""
