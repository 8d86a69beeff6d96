"""Everything that knows Nsight Systems: its export, its command, its versions."""
