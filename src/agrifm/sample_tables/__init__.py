"""Samples as tables: series of single pixels become data sets, labels are checked, new samples are suggested."""
