"""Where an exported graph leaves its source: values aligned by what they are, and the first layer that is wrong."""
