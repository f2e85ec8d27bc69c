"""A site: the data owner's own agent, its policy, its ledger and its release gate."""
