"""A SageMaker for tests: moto's server with what it lacks, whose jobs really run.

    server.py     one HTTP server: ours in front, moto behind it (S3, CloudWatch logs, STS)
    faults.py     errors, time-outs and broken connections on command; the calls that came
    api.py        how an action of SageMaker is answered; errors in AWS' form; tags
    jobs.py       training jobs: Downloading, Training, (Interrupted ...), Uploading, the end
    tuning.py     tuning jobs, whose trials are such training jobs
    packages.py   the Model Registry
    endpoints.py  models, endpoint configurations, endpoints
    serving.py    what an endpoint runs: the image `serve` in Docker, or its program as a process
    programs.py   what a job runs: the image in Docker, or the same entry point as a process
    made_serve.py a cheap program in place of the server
    made_train.py a cheap program in place of the training
    logs.py       a job's lines in CloudWatch
    bucket.py     what SageMaker itself does with S3
    offline/      makes a process fail that resolves a name outside of this machine

`python -m sagemaker_server --port 5556` (in `tests/`) serves it for a look by hand:
`AWS_ENDPOINT_URL=http://127.0.0.1:5556`.

Where it differs from AWS, as far as that is known without an account:

- A training job is one machine; instance types, volumes, VPCs, KMS keys, roles and IAM are taken
  down and not looked at. No permission is checked; a refusal comes on command only.
- Waiting for capacity takes no time, and a spot machine is taken away on command only. An
  interrupted job gets SIGTERM, 120 s, then SIGKILL, or (`hard`) SIGKILL at once.
- Billed seconds are the trained ones without what came before the first interruption's end: a
  made-up rule, so that the two figures differ.
- Checkpoints are copied out every `sync_seconds` and at each end; a file deleted in the container
  is deleted in S3, as AWS documents. AWS' own rhythm is not documented.
- A restarted job writes into a new log stream. Log lines are there at once; AWS' come later.
- FastFile is a copy, as File: a process cannot be given a file system.
- Trials of every strategy are drawn at random by `RandomSeed`, and none is stopped early. A parent
  of a warm start must exist and have ended; what it found is not used. The checkpoint folder of a
  trial has the trial's name appended, which AWS does not document.
- A tuning job none of whose trials told its objective fails, with AWS' text.
- An endpoint is one process or container, whatever its instances or memory; there is no warming up
  of serverless ones, no canary and no data capture. An alarm goes off on command. A failed create
  stays Failed, a failed update keeps the old configuration, as AWS documents.
- A client token of a package is remembered for good. A package that is not approved cannot become a
  model; AWS' text for that is not known here.
- Validation covers what these tests need: names, used names, time limits of spot, regions of
  buckets, empty channels. Texts of errors are as seen in AWS' documents and public reports.
"""
