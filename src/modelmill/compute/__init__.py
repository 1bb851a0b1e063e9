"""Where work runs: supervised processes of this machine, behind one Protocol. It knows nothing of models.

`compute` says what any place of work promises; `local` keeps it with processes forked from a `template`, each of which
runs `worker`. This room may import only `errors`, `names` and `settings`.
"""
