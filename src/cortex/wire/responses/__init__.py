"""OpenAI Responses, to and from OpenAI chat."""
