"""The gateway agent: what runs on a Raspberry Pi class machine next to the packs."""
