"""Parts of the TPU commands `tpu_report` (`paper`, `table`, `page`) and `tpu_host` (`check`, `measure`)."""
