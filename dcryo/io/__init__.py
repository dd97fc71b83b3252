"""Files and stores: foreign units, signs and index bases end here."""
