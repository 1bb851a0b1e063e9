"""The room `registry`: what was built, from what, and how well it did.

    runs        a run, and the chunks of versions and failures that it records, each as one transaction
    versions    looking versions up, page by page, and searching them
    change      what lies between two versions: computed from three digests, never claimed
    lineage     what each version is in the eyes of the one before it
    facts       code, package lock and host, each kept once and shared by thousands of versions
    fleet       the fleet map: which bytes answer for which segment; a release is one such map
    evidence    what was found out about a version, a run or a model
    fsck        whether every byte that is referred to is there and unchanged
    tables      the tables `registry_*`, which this room owns

It may import `data` and the rooms below it. `change`, `facts` and `fleet` need no SQLAlchemy: a serving node imports
them.
"""
