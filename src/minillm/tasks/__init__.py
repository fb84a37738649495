"""What people do with a model: classify texts, tag words, answer questions, and how well."""
