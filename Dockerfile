# docker build -t pinnerformer .                                           for CPUs
# docker build -t pinnerformer --build-arg EXTRAS=explore,redis,gpu .      for NVIDIA GPUs
# docker run --rm -it --user "$(id -u):$(id -g)" -v "$PWD:/work" pinnerformer ingest --config configs/yours.py
# More in CONTRIBUTING.md.
FROM python:3.12-slim AS build
ARG EXTRAS=explore,redis
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# What the package needs, in a layer that a change of its code leaves as it is.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir pinnerformer_jax \
    && echo '__version__ = "0"' > pinnerformer_jax/__init__.py \
    && pip install ".[$EXTRAS]" \
    && pip uninstall --yes pinnerformer_jax
COPY pinnerformer_jax pinnerformer_jax
RUN pip install --no-deps .

FROM python:3.12-slim
COPY --from=build /opt/venv /opt/venv
# Any user may run it; programs that were compiled before are looked up below HOME.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --home-dir /tmp --no-create-home pinnerformer && install -d -o pinnerformer /work
USER pinnerformer
WORKDIR /work
ENTRYPOINT ["pinnerformer"]
CMD ["--help"]
