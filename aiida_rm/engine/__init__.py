"""The science of Response Matching; runs where the job runs and never imports aiida."""
