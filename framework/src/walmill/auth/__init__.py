"""Who calls, and may they: tokens and the rules by which a request is authenticated. Pure decisions."""
