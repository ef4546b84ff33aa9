"""Plans as what starts them: commands, environments, files and manifests of the engines."""
