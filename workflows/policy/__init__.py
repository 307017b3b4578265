"""Pure decisions: facts in, a conclusion with its reason out. No I/O, no clock (`now` is an argument), no Temporal."""
