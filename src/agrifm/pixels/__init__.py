"""Classical classifiers of single pixels, beside the network: features, members, cross-validation and their mean."""
