"""What the commands about TPUs share: `tpu_report` (`paper`, `table`, `page`) and `tpu_host` (`check`, `measure`)."""
