"""Models by name: the built-in model, the table of networks that can be fetched, and their cache.

A *network* is a file of other authors, a row of table.py. A *model file* is what `bot` opens: a network with our
contract, made by `bot wrap`. A detector is used as its authors wrote it, without a contract.

A name becomes a file in these steps: `find_model_file` looks for it in the folders of models; `fetch` brings the files
of a network there, if `find_cached_file` does not find them; `export.by_name.prepare_model` wraps them. `find_model`,
for open_embedder, fetches nothing; `choose_model` of the commands does all of it.

bot_deploy/model.py is something else: the networks that bot_deploy itself trains.
"""
